// Envelopes and signatures by Java's standard library. Questions and answers as in jose.py.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.SecureRandom;
import java.security.Signature;
import java.security.spec.MGF1ParameterSpec;
import java.security.spec.PKCS8EncodedKeySpec;
import java.security.spec.X509EncodedKeySpec;
import java.util.Arrays;
import java.util.Base64;
import javax.crypto.Cipher;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.OAEPParameterSpec;
import javax.crypto.spec.PSource;
import javax.crypto.spec.SecretKeySpec;

public class Jose {
    static final OAEPParameterSpec OAEP =
        new OAEPParameterSpec("SHA-256", "MGF1", MGF1ParameterSpec.SHA256, PSource.PSpecified.DEFAULT);

    static byte[] bytes(String text) {
        return Base64.getDecoder().decode(text);
    }

    static byte[] part(String text) {
        return Base64.getUrlDecoder().decode(text);
    }

    static String url(byte[] data) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(data);
    }

    static PrivateKey secret(String kind, String der) throws GeneralSecurityException {
        return KeyFactory.getInstance(kind).generatePrivate(new PKCS8EncodedKeySpec(bytes(der)));
    }

    static PublicKey open(String kind, String der) throws GeneralSecurityException {
        return KeyFactory.getInstance(kind).generatePublic(new X509EncodedKeySpec(bytes(der)));
    }

    static byte[] gcm(int mode, byte[] key, byte[] iv, String header, byte[] data) throws GeneralSecurityException {
        Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(mode, new SecretKeySpec(key, "AES"), new GCMParameterSpec(128, iv));
        cipher.updateAAD(header.getBytes(StandardCharsets.US_ASCII));
        return cipher.doFinal(data);
    }

    static String seal(String publicKey, String header, String content) throws GeneralSecurityException {
        SecureRandom random = new SecureRandom();
        byte[] key = new byte[32];
        byte[] iv = new byte[12];
        random.nextBytes(key);
        random.nextBytes(iv);
        Cipher rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(Cipher.ENCRYPT_MODE, open("RSA", publicKey), OAEP);
        byte[] sealed = gcm(Cipher.ENCRYPT_MODE, key, iv, header, bytes(content));
        int at = sealed.length - 16;
        return String.join(".", header, url(rsa.doFinal(key)), url(iv),
            url(Arrays.copyOf(sealed, at)), url(Arrays.copyOfRange(sealed, at, sealed.length)));
    }

    static String unseal(String privateKey, String envelope) throws GeneralSecurityException {
        String[] parts = envelope.split("\\.", -1);
        String header = new String(part(parts[0]), StandardCharsets.UTF_8);
        if (!header.contains("\"alg\":\"RSA-OAEP-256\"") || !header.contains("\"enc\":\"A256GCM\"")) {
            throw new GeneralSecurityException("algorithm");
        }
        Cipher rsa = Cipher.getInstance("RSA/ECB/OAEPPadding");
        rsa.init(Cipher.DECRYPT_MODE, secret("RSA", privateKey), OAEP);
        byte[] content = part(parts[3]);
        byte[] tag = part(parts[4]);
        byte[] sealed = Arrays.copyOf(content, content.length + tag.length);
        System.arraycopy(tag, 0, sealed, content.length, tag.length);
        byte[] plain = gcm(Cipher.DECRYPT_MODE, rsa.doFinal(part(parts[1])), part(parts[2]), parts[0], sealed);
        return Base64.getEncoder().encodeToString(plain);
    }

    static byte[] input(String header, String payload) {
        return (header + "." + url(bytes(payload))).getBytes(StandardCharsets.US_ASCII);
    }

    static String sign(String privateKey, String header, String payload) throws GeneralSecurityException {
        Signature signer = Signature.getInstance("Ed25519");
        signer.initSign(secret("Ed25519", privateKey));
        signer.update(input(header, payload));
        return header + ".." + url(signer.sign());
    }

    static String verify(String publicKey, String jws, String payload) throws GeneralSecurityException {
        String[] parts = jws.split("\\.\\.");
        Signature verifier = Signature.getInstance("Ed25519");
        verifier.initVerify(open("Ed25519", publicKey));
        verifier.update(input(parts[0], payload));
        return verifier.verify(part(parts[1])) ? "ok" : "refused";
    }

    static String answer(String[] f) throws GeneralSecurityException {
        switch (f[0]) {
            case "seal": return seal(f[1], f[2], f[3]);
            case "open": return unseal(f[1], f[2]);
            case "sign": return sign(f[1], f[2], f[3]);
            case "verify": return verify(f[1], f[2], f[3]);
            default: throw new IllegalArgumentException(f[0]);
        }
    }

    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String answer;
            try {
                answer = answer(line.split(" ", -1));
            } catch (GeneralSecurityException refused) {
                answer = "refused";
            }
            System.out.println(answer);
        }
    }
}
