// Seals standard input for the VM's owner, and stores it: java Seal.java PARTITION VM POINT

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.interfaces.RSAPublicKey;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

public class Seal {
    /** Java's own name for RSA-OAEP-256 would use SHA-1 in one of two places. */
    static final OAEPParameterSpec OAEP =
        new OAEPParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, PSource.PSpecified.DEFAULT);
    static final int TAG_BYTES = 16;

    static RSAPublicKey key(String pem) throws GeneralSecurityException {
        byte[] der = Base64.getMimeDecoder().decode(pem.replaceAll("-----[A-Z ]+-----", ""));
        return (RSAPublicKey) KeyFactory.getInstance("RSA").generatePublic(new X509EncodedKeySpec(der));
    }

    /** A compact JWE (RFC 7516), RSA-OAEP-256 and A256GCM. */
    static String seal(RSAPublicKey key, String vm, String point, byte[] content) throws GeneralSecurityException {
        // Who opens it compares vm and point with where it came from.
        String header = url(utf8("{\"alg\":\"RSA-OAEP-256\",\"enc\":\"A256GCM\",\"kid\":\"" + thumbprint(key)
            + "\",\"vm\":\"" + escaped(vm) + "\",\"point\":\"" + escaped(point) + "\"}"));
        byte[] secret = random(32);
        byte[] nonce = random(12);
        Cipher rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(Cipher.ENCRYPT_MODE, key, OAEP);
        Cipher aes = Cipher.getInstance("AES/GCM/NoPadding");
        aes.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(secret, "AES"), new GCMParameterSpec(8 * TAG_BYTES, nonce));
        aes.updateAAD(utf8(header));
        byte[] sealed = aes.doFinal(content);
        int end = sealed.length - TAG_BYTES;
        return String.join(".", header, url(rsa.doFinal(secret)), url(nonce),
            url(Arrays.copyOf(sealed, end)), url(Arrays.copyOfRange(sealed, end, sealed.length)));
    }

    /** RFC 7638: these members in this order. */
    static String thumbprint(RSAPublicKey key) throws GeneralSecurityException {
        String members = "{\"e\":\"" + number(key.getPublicExponent().toByteArray())
            + "\",\"kty\":\"RSA\",\"n\":\"" + number(key.getModulus().toByteArray()) + "\"}";
        return url(MessageDigest.getInstance("SHA-256").digest(utf8(members)));
    }

    /** BigInteger puts a zero before a first bit that is set. */
    static String number(byte[] bytes) {
        return url(bytes[0] == 0 ? Arrays.copyOfRange(bytes, 1, bytes.length) : bytes);
    }

    static byte[] random(int bytes) {
        byte[] random = new byte[bytes];
        new SecureRandom().nextBytes(random);
        return random;
    }

    static String escaped(String text) {
        return text.replace("\\", "\\\\").replace("\"", "\\\"");
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String url(byte[] bytes) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(bytes);
    }

    public static void main(String[] arguments) throws GeneralSecurityException {
        Path partition = Path.of(arguments[0]);
        String point = arguments[2];
        try {
            byte[] content = System.in.readAllBytes();
            if (content.length == 0) {
                throw new IOException("nothing on standard input");
            }
            RSAPublicKey key = key(Files.readString(partition.resolve("primary-key.pem")));
            Files.writeString(partition.resolve(point), seal(key, arguments[1], point, content));
        } catch (IOException refused) {
            System.err.println(point + ": not stored: " + refused);
            System.exit(1);
        }
    }
}
